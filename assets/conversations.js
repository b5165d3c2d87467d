// Conversations that this browser keeps: listed, searched, renamed, deleted, exported. Nothing of them is on the server.
(() => {
  const KEPT = 100;
  const place = (kind) => `grit-conversations-${kind}`;
  const openPlace = (kind) => `grit-open-${kind}`;
  const read = (kind) => {
    try { return JSON.parse(localStorage.getItem(place(kind)) ?? "[]"); } catch { return []; }
  };
  const write = (kind, records) => {
    let kept = records.slice(0, KEPT);
    while (kept.length) {  // the browser's storage is small: the oldest go first
      try { localStorage.setItem(place(kind), JSON.stringify(kept)); return; } catch { kept = kept.slice(0, -1); }
    }
    localStorage.removeItem(place(kind));
  };
  const lists = {};
  const temporary = { chat: false, documents: false };
  const nameOf = (record) => record.name || window.gritPlain(firstWords(record)).slice(0, 80) || "Untitled";
  const firstWords = (record) => {
    const question = (record.versions[record.current] ?? []).find((message) => message.role === "user");
    return question ? textOf(question) : "";
  };
  const textOf = (message) => typeof message.content === "string" ? message.content : message.content[0]?.text ?? "";
  const shownText = (kind, message) =>
    message.role === "user" || kind === "documents" ? window.gritPlain(textOf(message)) : textOf(message);

  // ---- keeping
  window.gritKeep = (kind, text) => {
    if (!text || temporary[kind]) { return; }
    const record = JSON.parse(text);
    const earlier = read(kind);
    const before = earlier.find((one) => one.id === record.id);
    const others = earlier.filter((one) => one.id !== record.id);
    const isEmpty = !record.versions.some((version) => version.length);
    write(kind, isEmpty ? others : [{ ...record, name: before?.name ?? "", at: Date.now() }, ...others]);
    localStorage.setItem(openPlace(kind), isEmpty ? "" : record.id);
    draw(kind);
  };

  // ---- the list
  const draw = (kind) => {
    const { element } = lists[kind] ?? {};
    if (!element) { return; }
    const records = read(kind);
    const open = localStorage.getItem(openPlace(kind));
    const root = element.querySelector(".talks");
    const wanted = root.querySelector("[data-search]").value.trim().toLowerCase();
    root.querySelector("summary span").textContent = records.length ? ` (${records.length})` : "";
    const list = root.querySelector("ul");
    list.replaceChildren();
    for (const record of records) {
      const inside = (record.versions[record.current] ?? []).map((message) => shownText(kind, message)).join("\n");
      if (wanted && !`${nameOf(record)}\n${inside}`.toLowerCase().includes(wanted)) { continue; }
      const row = document.createElement("li");
      row.dataset.id = record.id;
      row.classList.toggle("open", record.id === open);
      const name = document.createElement("button");
      name.type = "button";
      name.dataset.act = "open";
      name.className = "talk-name";
      name.textContent = nameOf(record);
      const when = document.createElement("time");
      when.textContent = new Date(record.at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
      row.append(name, when);
      for (const [act, label] of [["rename", "Rename"], ["markdown", "Markdown"], ["json", "JSON"], ["delete", "Delete"]]) {
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.act = act;
        button.className = "plain-button";
        button.textContent = label;
        button.setAttribute("aria-label", `${label}: ${nameOf(record)}`);
        row.append(button);
      }
      list.append(row);
    }
    root.querySelector(".talks-none").hidden = list.children.length > 0;
  };
  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = `${name.replace(/[^\p{L}\p{N} _-]+/gu, "").trim().slice(0, 60) || "conversation"}.${type.endsWith("json") ? "json" : "md"}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const asMarkdown = (kind, record) => [
    `# ${nameOf(record)}`,
    ...record.versions[record.current].map((message) =>
      `**${message.role === "user" ? "You" : "GRIT Workbench"}**\n\n${shownText(kind, message)}`),
  ].join("\n\n");
  const asJson = (kind, record) => JSON.stringify({
    name: nameOf(record), kind, saved: new Date(record.at).toISOString(),
    versions: record.versions.map((version) => version.map((message) => ({
      role: message.role, content: shownText(kind, message),
    }))), current: record.current,
  }, null, 1);
  const act = (kind, record, what, row) => {
    if (what === "open") { open(kind, record); }
    if (what === "markdown") { save(nameOf(record), "text/markdown", asMarkdown(kind, record)); }
    if (what === "json") { save(nameOf(record), "application/json", asJson(kind, record)); }
    if (what === "delete") {
      const records = read(kind);
      const index = records.findIndex((one) => one.id === record.id);
      write(kind, records.filter((one) => one.id !== record.id));
      if (localStorage.getItem(openPlace(kind)) === record.id) { lists[kind].events.fresh(); }
      draw(kind);
      const back = document.createElement("button");
      back.type = "button";
      back.className = "plain-button";
      back.textContent = `Undo: ${nameOf(record)}`;
      back.addEventListener("click", () => {
        const now = read(kind);
        now.splice(index, 0, record);
        write(kind, now);
        back.remove();
        draw(kind);
      });
      lists[kind].element.querySelector(".talks ul").before(back);
      setTimeout(() => back.remove(), 10000);
    }
    if (what === "rename") {
      const field = document.createElement("input");
      field.value = nameOf(record);
      field.setAttribute("aria-label", "New name");
      const done = () => {
        write(kind, read(kind).map((one) => one.id === record.id ? { ...one, name: field.value.trim() } : one));
        draw(kind);
      };
      field.addEventListener("keydown", (event) => { if (event.key === "Enter") { done(); } });
      field.addEventListener("blur", done, { once: true });
      row.querySelector("[data-act=open]").replaceWith(field);
      field.focus();
    }
  };
  const open = (kind, record) => {
    localStorage.setItem(openPlace(kind), record.id);
    lists[kind].events.open({ record: JSON.stringify(record) });
    draw(kind);
  };

  // Called by the list's component when it is there.
  window.gritConversations = (kind, element, events) => {
    lists[kind] = { element, events };
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) { return; }
      if (button.dataset.act === "fresh") {
        localStorage.setItem(openPlace(kind), "");
        events.fresh();
        draw(kind);
        return;
      }
      const row = button.closest("li[data-id]");
      const record = row && read(kind).find((one) => one.id === row.dataset.id);
      if (record) { act(kind, record, button.dataset.act, row); }
    });
    element.addEventListener("input", (event) => {
      if (event.target.matches("[data-search]")) { draw(kind); }
      if (event.target.matches("[data-temporary]")) { temporary[kind] = event.target.checked; }
    });
    draw(kind);
    const last = localStorage.getItem(openPlace(kind));
    const record = last && read(kind).find((one) => one.id === last);
    if (record) { setTimeout(() => events.open({ record: JSON.stringify(record) }), 0); }
  };
})();
