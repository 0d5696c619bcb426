"use strict";
(() => {
  const root = document.documentElement;

  // Light or dark: as the system has it, until somebody chooses.
  document.getElementById("theme").addEventListener("click", () => {
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  });

  // Tables: numbers first fall, words first rise; what has no value stays below.
  const valueOf = (row, column) => {
    const cell = row.children[column];
    if (cell.dataset.value === undefined) return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  for (const table of document.querySelectorAll(".sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.addEventListener("click", () => {
        const rows = [...table.tBodies[0].rows];
        const numeric = head.classList.contains("n");
        const before = head.getAttribute("aria-sort");
        const falling = before ? before === "ascending" : numeric;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        rows.sort((a, b) => {
          const [x, y] = [valueOf(a, column), valueOf(b, column)];
          if (x === null || y === null) return (x === null) - (y === null);
          const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
          return falling ? -order : order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
  for (const input of document.querySelectorAll(".filter")) {
    const rows = input.closest("section").querySelector("table").tBodies[0].rows;
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    });
  }

  // Which section is being read.
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const list = document.querySelector("nav ul");
  const mark = () => {
    let current = null;
    for (const id of links.keys()) {
      if (document.getElementById(id).getBoundingClientRect().top < innerHeight * 0.3) current = id;
    }
    if (innerHeight + scrollY >= root.scrollHeight - 4) current = [...links.keys()].pop();
    for (const [id, link] of links) {
      const here = id === (current || [...links.keys()][0]);
      if (here === link.hasAttribute("aria-current")) continue;
      link.toggleAttribute("aria-current", here);
      if (here) list.scrollTo({ left: link.offsetLeft - list.offsetLeft - 60 });
    }
  };
  addEventListener("scroll", mark, { passive: true });
  mark();

  // Pictures.
  const viewer = document.getElementById("viewer");
  const stage = viewer.querySelector(".stage");
  const fit = () => {
    const frame = stage.firstElementChild;
    if (!frame || !viewer.open || !stage.clientWidth) return;
    const [, , width, height] = frame.querySelector("svg").getAttribute("viewBox").split(" ").map(Number);
    frame.style.width = `${Math.min(stage.clientWidth, ((innerHeight - 110) * width) / height)}px`;
    // Letters of one size on the screen, whatever that of the image, and inside it.
    const size = ((innerWidth < 600 ? 10 : 12.5) * width) / frame.clientWidth;
    frame.querySelector("svg").style.fontSize = `${size}px`;
    for (const text of frame.querySelectorAll("text")) {
      const box = text.parentNode.querySelector("rect");
      const [x, y] = ["x", "y"].map((name) => Number(box.getAttribute(name)));
      const below = text.classList.contains("below");
      const bottom = y + Number(box.getAttribute("height")) + size;
      text.setAttribute("x", Math.max(0, Math.min(x, width - text.getComputedTextLength())));
      text.setAttribute("y", below ? Math.min(bottom, height - 0.3 * size) : Math.max(y - 0.3 * size, size));
    }
  };
  const open = (picture) => {
    stage.replaceChildren(picture.querySelector(".frame").cloneNode(true));
    viewer.querySelector(".caption").textContent = [...picture.querySelector("figcaption").children]
      .map((part) => part.textContent).join(" · ");
    viewer.showModal();
    fit();
  };
  for (const picture of document.querySelectorAll(".picture")) {
    picture.addEventListener("click", () => open(picture));
    picture.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open(picture);
    });
  }
  addEventListener("resize", fit);
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  const objects = document.getElementById("show-objects");
  if (objects) {
    objects.addEventListener("change", () => root.classList.toggle("with-objects", objects.checked));
    root.classList.toggle("with-objects", objects.checked);
  }
})();
