// The page's own script: keys, scrolling to what was just asked, and typed words as they were typed.
(() => {
  const shown = (selector) => [...document.querySelectorAll(selector)].find((node) => node.offsetParent !== null);

  // ---- keys
  const KEYS = [
    ["Enter", "send"], ["Shift + Enter", "new line"], ["Esc", "stop what is running, or close"],
    ["/", "to the question box"], ["?", "this list"], ["← →", "the source before, the next source (page view)"],
    ["+ −", "larger, smaller (page view)"],
  ];
  const isTyping = (node) => /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName) || node.isContentEditable;
  const dialog = (id, label) => {
    let made = document.getElementById(id);
    if (!made) {
      made = document.createElement("dialog");
      made.id = id;
      made.className = "page-dialog";
      made.setAttribute("aria-label", label);
      made.addEventListener("click", (event) => {
        if (event.target === made || event.target.closest("[data-close]")) { made.close(); }
      });
      (document.querySelector(".gradio-container") ?? document.body).append(made);
    }
    return made;
  };
  const showKeys = () => {
    const list = dialog("key-list", "Keys");
    const rows = KEYS.map(([key, what]) => `<tr><th scope="row"><kbd>${key}</kbd></th><td>${what}</td></tr>`);
    list.innerHTML = `<div class="dialog-head"><h3>Keys</h3><button type="button" class="plain-button" data-close>` +
      `Close</button></div><table>${rows.join("")}</table>`;
    list.showModal();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) { shown("button.stop-button")?.click(); }
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) { return; }
    if (event.key === "/") {
      const box = shown(".main-box textarea");
      if (box) { event.preventDefault(); box.focus(); }
    }
    if (event.key === "?") { showKeys(); }
  });
  document.addEventListener("click", (event) => { if (event.target.closest("#show-keys")) { showKeys(); } });

  // ---- the page of a source, full size
  const ZOOMS = [1, 1.5, 2, 3];
  let zoom = 0;
  let opensViewer = false;
  const cards = () => [...document.querySelectorAll("#sources [data-cite]")];
  const chosen = () => cards().findIndex((card) => card.closest(".card").classList.contains("chosen"));
  const fillViewer = () => {
    const figure = document.querySelector("#page-picture figure");
    const view = dialog("page-view", "Page of the source");
    if (!figure) { view.close(); return; }
    const [at, all] = [chosen(), cards().length];
    const caption = figure.querySelector("figcaption span").textContent;
    view.innerHTML = `<div class="dialog-head"><strong class="dialog-title"></strong>` +
      `<span class="dialog-tools"><button type="button" class="plain-button" data-go="-1" aria-label="Source before">‹` +
      `</button><span>source ${at + 1} of ${all}</span>` +
      `<button type="button" class="plain-button" data-go="1" aria-label="Next source">›</button>` +
      `<button type="button" class="plain-button" data-zoom="-1" aria-label="Smaller">−</button>` +
      `<button type="button" class="plain-button" data-zoom="1" aria-label="Larger">+</button>` +
      `<button type="button" class="plain-button" data-close>Close</button></span></div>` +
      `<div class="dialog-body" tabindex="0"></div>`;
    view.querySelector(".dialog-title").textContent = caption;
    const sheet = figure.querySelector(".sheet").cloneNode(true);
    sheet.removeAttribute("data-view");
    view.querySelector(".dialog-body").append(sheet);
    view.querySelector("[data-go='-1']").disabled = at <= 0;
    view.querySelector("[data-go='1']").disabled = at < 0 || at >= all - 1;
    applyZoom();
    if (!view.open) { view.showModal(); }
    (sheet.querySelector(".box, mark, .framed"))?.scrollIntoView({ block: "center" });
  };
  const applyZoom = () => {
    const sheet = document.querySelector("#page-view .sheet");
    sheet?.style.setProperty("--zoom", ZOOMS[zoom]);
  };
  const go = (by) => {
    const next = cards()[chosen() + by];
    if (next) { opensViewer = true; next.click(); }
  };
  const resize = (by) => { zoom = Math.min(ZOOMS.length - 1, Math.max(0, zoom + by)); applyZoom(); };
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-view]")) { fillViewer(); return; }
    const tool = event.target.closest("#page-view [data-go], #page-view [data-zoom]");
    if (tool?.dataset.go) { go(Number(tool.dataset.go)); }
    if (tool?.dataset.zoom) { resize(Number(tool.dataset.zoom)); }
    // Where the sources stand below the conversation, a tap on a citation would change what nobody sees.
    const cite = event.target.closest("a[href^='#cite-'], #sources [data-cite]");
    if (cite && matchMedia("(max-width: 900px)").matches && event.isTrusted) {
      const card = cards().find((one) => one.dataset.cite === (cite.dataset.cite ?? cite.hash.slice("#cite-".length)));
      const isThere = card?.closest(".card").classList.contains("chosen") && document.querySelector("#page-picture figure");
      if (isThere) { fillViewer(); } else { opensViewer = true; }  // nothing changes for what is chosen already
    }
  }, true);
  document.addEventListener("keydown", (event) => {
    if (!document.querySelector("#page-view[open]")) { return; }
    if (event.key === "ArrowRight") { go(1); }
    if (event.key === "ArrowLeft") { go(-1); }
    if (event.key === "+") { resize(1); }
    if (event.key === "-") { resize(-1); }
  });
  let lastPage = null;
  let lastChosen = -1;
  const followPage = () => {
    const figure = document.querySelector("#page-picture figure");
    const now = chosen();
    if (figure !== lastPage || now !== lastChosen) {  // two sources may stand on one page
      [lastPage, lastChosen] = [figure, now];
      if (opensViewer && figure) { opensViewer = false; fillViewer(); }
    }
  };

  // ---- documents: the box for files folds away once there are some
  const documents = () => document.querySelector(".documents");
  const unfold = (open) => {
    documents()?.classList.toggle("adding", open);
    document.getElementById("add-more")?.setAttribute("aria-expanded", String(!!documents()?.classList.contains("adding")));
  };
  document.addEventListener("click", (event) => { if (event.target.closest("#add-more")) { unfold(); } });
  document.addEventListener("dragenter", (event) => {
    if ([...(event.dataTransfer?.types ?? [])].includes("Files")) { unfold(true); }
  });

  // ---- a box is empty as soon as its text is sent
  window.gritTake = (id, text) => {
    const box = document.querySelector(`#${id} textarea`);
    if (box && box.value === text) {
      box.value = "";
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }
    return text;
  };

  // ---- an own message always comes into view
  const counts = new WeakMap();
  const follow = () => {
    for (const chat of document.querySelectorAll(".conversation")) {
      const asked = chat.querySelectorAll("[data-testid=user]").length;
      if (asked > (counts.get(chat) ?? asked)) {
        const log = chat.querySelector("[role=log]");
        if (log) { requestAnimationFrame(() => { log.scrollTop = log.scrollHeight; }); }
      }
      counts.set(chat, asked);
    }
  };

  // ---- words that were typed: the page keeps them escaped (grit_app/ui/base/messages.py), people never see that
  const plain = (text) => text
    .replace(/<div class="(stats|next)">.*<\/div>/gs, "").replace(/\[\\\[(\d+)\\\]\]\(#cite-[\d-]+\)/g, "[$1]")
    .replace(/<\/?(span|strong)>/g, "").replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code))
    .replaceAll("  \n", "\n").replaceAll("\u00a0", " ");
  window.gritPlain = plain;
  const isLiteral = (node) => !!node.closest("#answers, .user-row, .user");
  let copiesLiteral = false;
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".conversation button");
    if (button) { copiesLiteral = isLiteral(button); }
  }, true);
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(copiesLiteral ? plain(text) : text);
  }
  const unescapeEdits = () => {
    for (const box of document.querySelectorAll(".conversation textarea.edit-textarea:not([data-plain])")) {
      box.dataset.plain = "yes";
      box.value = plain(box.value);
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }
  };

  // ---- the picture of a page is seen in part: its first marked words come into view
  const showPlace = () => {
    for (const page of document.querySelectorAll("#page-picture .page[data-first]:not([data-placed])")) {
      page.dataset.placed = "yes";
      const image = page.querySelector("img");
      const place = () => {
        const sheet = page.parentElement;
        sheet.scrollTop = page.offsetHeight * page.dataset.first / 100 - sheet.clientHeight / 3;
      };
      if (image.complete) { place(); }
      image.addEventListener("load", place);
    }
  };

  // ---- charts of a tab that was hidden while the window changed its width keep the width that they had
  const fitCharts = () => {
    for (const chart of document.querySelectorAll(".js-plotly-plot")) {
      const drawn = chart.querySelector(".main-svg");
      if (drawn && chart.offsetParent !== null && Math.abs(drawn.clientWidth - chart.clientWidth) > 1) {
        window.Plotly?.Plots.resize(chart);
      }
    }
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest("[role=tab], .overflow-dropdown")) { setTimeout(fitCharts, 200); }
  });
  addEventListener("resize", () => setTimeout(fitCharts, 200));

  new MutationObserver(() => { follow(); unescapeEdits(); followPage(); showPlace(); }).observe(document, { childList: true, subtree: true });
})();
