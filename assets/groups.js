// Groups of documents: a choice of ticks under a name, kept in this browser. A click on a name ticks them and no others.
window.gritGroups = (element, every) => {
  const STORE = "grit-document-groups";
  const load = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(STORE) ?? "{}");
      return new Map(Object.entries(kept).filter(([, ids]) => Array.isArray(ids)));
    } catch { return new Map(); }
  };
  const save = (groups) => {
    try { localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(groups))); } catch { /* for this visit only */ }
  };
  const groups = load();
  let naming = null;  // what is typed as a new group's name; null: none is being named

  const boxes = () => [...element.querySelectorAll("input[data-use]")];
  const ticked = () => boxes().filter((box) => box.checked).map((box) => box.dataset.use);
  const made = (tag, attributes, text) => {
    const node = Object.assign(document.createElement(tag), attributes);
    node.textContent = text;
    return node;
  };
  const button = (text, act, label) => {
    const node = made("button", { type: "button", className: "plain-button", onclick: act }, text);
    if (label) { node.setAttribute("aria-label", label); node.title = label; }
    return node;
  };
  const use = (ids) => {
    for (const box of boxes()) { box.checked = ids.includes(box.dataset.use); }
    every(boxes().filter((box) => !box.checked).map((box) => box.dataset.use));
  };
  const keep = () => {
    const name = naming.trim().slice(0, 60);
    if (name && ticked().length) { groups.set(name, ticked()); save(groups); }
    naming = null;
    draw();
  };
  const forget = (name) => { groups.delete(name); save(groups); draw(); };
  const draw = () => {
    const place = element.querySelector(".groups");
    if (!place) { return; }
    const here = new Set(boxes().map((box) => box.dataset.use));
    const nodes = [];
    for (const [name, ids] of groups) {
      if (!ids.some((id) => here.has(id))) { continue; }  // they may come back: a removal can be undone
      nodes.push(button(name, () => use(ids)), button("✕", () => forget(name), `Forget the group ${name}`));
    }
    if (naming === null) {
      nodes.push(button("Keep as a group …", () => { naming = ""; draw(); }, "Keep the documents that are ticked as a group"));
    } else {
      const field = made("input", { type: "text", value: naming, placeholder: "Name of the group", maxLength: 60 }, "");
      field.setAttribute("aria-label", "Name of the group");
      field.oninput = () => { naming = field.value; };
      field.onkeydown = (event) => {
        if (event.key === "Enter") { keep(); }
        if (event.key === "Escape") { naming = null; draw(); }
      };
      nodes.push(field, button("Keep", keep));
      requestAnimationFrame(() => field.focus());
    }
    place.replaceChildren(...nodes);
  };
  // The table is drawn anew whenever a file moves on: then the place for the groups is empty.
  new MutationObserver(() => {
    if (element.querySelector(".groups:empty")) { draw(); }
  }).observe(element, { childList: true, subtree: true });
  draw();
};
