// The page's own script: keys, scrolling to what was just asked, and typed words as they were typed.
(() => {
  const shown = (selector) => [...document.querySelectorAll(selector)].find((node) => node.offsetParent !== null);

  // ---- keys
  const isTyping = (node) => /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName) || node.isContentEditable;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { shown("button.stop-button")?.click(); }
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) { return; }
    if (event.key === "/") {
      const box = shown(".main-box textarea");
      if (box) { event.preventDefault(); box.focus(); }
    }
  });

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
    .replace(/<div class="stats">.*<\/div>/gs, "").replace(/\[\\\[(\d+)\\\]\]\(#cite-[\d-]+\)/g, "[$1]")
    .replace(/<\/?(span|strong)>/g, "").replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code))
    .replaceAll("  \n", "\n").replaceAll("\u00a0", " ");
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

  new MutationObserver(() => { follow(); unescapeEdits(); }).observe(document, { childList: true, subtree: true });
})();
