// Similarity: lines between ranks that moved, and the neighbours of a text that is clicked on.
(() => {
  // ---- lines from each text's place in the first list to its place in the second
  const draw = () => {
    const row = document.getElementById("rankings");
    if (!row || row.offsetParent === null) { return; }
    const [a, b] = ["ranking-a", "ranking-b"].map((id) => document.getElementById(id));
    const frame = row.getBoundingClientRect();
    const beside = a && b && b.getBoundingClientRect().left > a.getBoundingClientRect().right;
    const paths = [];
    if (beside) {
      for (const item of b.querySelectorAll(":scope li[data-text]")) {
        const other = a.querySelector(`li[data-text="${item.dataset.text}"]`);
        const move = item.querySelector(".move.up, .move.down");
        if (!other || !move || item.offsetParent === null || other.offsetParent === null) { continue; }
        const [from, to] = [other, item].map((node) => node.getBoundingClientRect());
        const [x1, y1] = [from.right - frame.left + 6, from.top - frame.top + 12];
        const [x2, y2] = [to.left - frame.left - 6, to.top - frame.top + 12];
        const bend = (x1 + x2) / 2;
        paths.push(`<path class="${move.classList.contains("up") ? "up" : "down"}" ` +
          `d="M${x1} ${y1} C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}"/>`);
      }
    }
    const drawn = paths.join("");
    let svg = row.querySelector("svg.moves");
    if (!svg) {
      svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("class", "moves");
      svg.setAttribute("aria-hidden", "true");
      row.append(svg);
    }
    if (svg.dataset.drawn !== drawn) { svg.dataset.drawn = drawn; svg.innerHTML = drawn; }
  };

  // ---- neighbours
  const data = () => {
    const holder = document.querySelector("#near .near-data");
    return holder && JSON.parse(holder.textContent);
  };
  const grey = (kept) => {
    const plot = document.querySelector("#map .js-plotly-plot");
    plot?.querySelectorAll(".scatterlayer .trace").forEach((trace) => {
      trace.querySelectorAll("path.point").forEach((point) => {
        const index = point.__data__?.data?.[1] ?? indexOf(plot, trace, point);
        point.style.opacity = kept === null || kept.has(index) ? "" : "0.15";
      });
    });
  };
  const indexOf = (plot, trace, point) => {
    const traces = [...plot.querySelectorAll(".scatterlayer .trace")];
    const points = [...trace.querySelectorAll("path.point")];
    return plot.data[traces.indexOf(trace)]?.customdata?.[points.indexOf(point)]?.[1];
  };
  const show = (index) => {
    const all = data();
    if (!all || !all.near[index]) { return; }
    const list = document.querySelector("#near .near-list");
    list.replaceChildren();
    const title = document.createElement("h4");
    title.textContent = `${all.labels[index]}: ${all.texts[index]}`;
    const rows = document.createElement("ol");
    for (const [other, score] of all.near[index]) {
      const row = document.createElement("li");
      const words = document.createElement("span");
      words.textContent = `${all.labels[other]}: ${all.texts[other]}`;
      const number = document.createElement("span");
      number.className = "rank-score";
      number.textContent = score.toFixed(3).replace("-", "−");
      row.append(words, number);
      rows.append(row);
    }
    const back = document.createElement("button");
    back.type = "button";
    back.className = "plain-button";
    back.textContent = "Show all points";
    back.addEventListener("click", () => { grey(null); back.remove(); });
    list.append(title, rows, back);
    grey(new Set([index, ...all.near[index].map(([other]) => other)]));
  };
  const bind = () => {
    const plot = document.querySelector("#map .js-plotly-plot");
    if (plot?.on && !plot.dataset.bound) {
      plot.dataset.bound = "yes";
      plot.on("plotly_click", (event) => show(event.points[0].customdata?.[1]));
    }
  };
  document.addEventListener("click", (event) => {
    const number = event.target.closest("[data-near]");
    if (number) {
      const all = data();
      show(all ? all.labels.indexOf(number.dataset.near) : -1);
    }
  });

  // ---- a comparison as an address: behind the #, which browsers keep to themselves
  const MARK = "#similarity=";
  window.gritLink = (...values) => {
    history.replaceState(null, "", MARK + encodeURIComponent(JSON.stringify(values)));
    const told = document.getElementById("link-told");
    const said = (words) => { if (told) { told.textContent = words; } };
    said("The address of this page leads here now.");
    navigator.clipboard?.writeText(location.href).then(() => said("The link is copied."), () => {});
  };
  window.gritLinked = (...values) => {
    if (!location.hash.startsWith(MARK)) { return values; }
    try {
      const linked = JSON.parse(decodeURIComponent(location.hash.slice(MARK.length)));
      if (linked.length !== values.length || linked.some((one, i) => typeof one !== typeof values[i])) { return values; }
      const tab = [...document.querySelectorAll("[role=tab]")].find((one) => one.textContent.trim() === "Similarity");
      setTimeout(() => tab?.click(), 0);
      return linked;
    } catch { return values; }
  };

  let isWaiting = false;
  const later = () => {
    if (isWaiting) { return; }
    isWaiting = true;
    requestAnimationFrame(() => { isWaiting = false; draw(); bind(); });
  };
  new MutationObserver(later).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["style", "open"] });
  addEventListener("resize", later);
})();
