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

  // What is wider than its place says so, can be reached by keyboard, and fades at its edge.
  for (const box of document.querySelectorAll(".scroll, nav ul")) {
    const table = box.classList.contains("scroll");
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.setAttribute("aria-hidden", "true");
    if (table) box.before(hint);
    const update = () => {
      const wide = box.scrollWidth > box.clientWidth + 1;
      const tall = box.scrollHeight > box.clientHeight + 1;
      box.classList.toggle("more-left", wide && box.scrollLeft > 1);
      box.classList.toggle("more-right", wide && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
      if (!table) return;
      hint.hidden = !wide && !tall;
      hint.textContent = wide ? `Wider than the screen: scroll ⇄${tall ? " ⇅" : ""}` : "More below: scroll ⇅";
      if (wide || tall) {
        box.tabIndex = 0;
        box.setAttribute("role", "region");
        if (!box.hasAttribute("aria-label")) {
          box.setAttribute("aria-label", box.closest("section").querySelector("h2").textContent);
        }
      } else box.removeAttribute("tabindex");
    };
    box.addEventListener("scroll", update, { passive: true });
    const watch = new ResizeObserver(update);
    watch.observe(box);
    for (const child of box.children) watch.observe(child);
    update();
  }

  // On paper nothing is folded up but the whole configuration.
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("main details:not([open])")) {
      if (!part.querySelector("pre")) part.open = part.dataset.printed = true;
    }
  });
  addEventListener("afterprint", () => {
    for (const part of document.querySelectorAll("details[data-printed]")) {
      part.open = false;
      delete part.dataset.printed;
    }
  });

  // Pictures.
  const viewer = document.getElementById("viewer");
  const stage = viewer.querySelector(".stage");
  const listing = viewer.querySelector("details");
  const pictures = [...document.querySelectorAll(".picture")];
  let current = 0;
  let labels = []; // Pairs of a text and the box that it is about.

  // Places of a label beside its box, best first; all inside the image.
  const placesOf = (box, width, height, image) => {
    const inside = (value, size, limit) => Math.max(0, Math.min(value, limit - size));
    const right = box.x + box.width;
    const bottom = box.y + box.height;
    const columns = [box.x, right - width, box.x + (box.width - width) / 2];
    const places = [];
    for (const y of [box.y - height, bottom, box.y, bottom - height]) {
      if (y < 0 || y + height > image.height) continue;
      for (const x of columns) places.push([inside(x, width, image.width), y]);
    }
    for (const x of [right, box.x - width]) {
      if (x < 0 || x + width > image.width) continue;
      for (const y of [box.y, bottom - height]) places.push([x, inside(y, height, image.height)]);
    }
    return places;
  };
  // Letters of one size on the screen, whatever that of the image. Labels of detections come
  // first, the best one before the others; one that has no room beside those before it is hidden.
  const label = (frame, image) => {
    const size = ((innerWidth < 600 ? 10 : 12.5) * image.width) / frame.clientWidth;
    frame.querySelector("svg").style.fontSize = `${size}px`;
    const taken = [];
    let hidden = 0;
    for (const [text, rect] of labels) {
      const [x, y, w, h] = ["x", "y", "width", "height"].map((key) => Number(rect.getAttribute(key)));
      const [width, height] = [text.getComputedTextLength() + 0.5 * size, 1.25 * size];
      const free = placesOf({ x, y, width: w, height: h }, width, height, image).find(
        ([left, top]) => width <= image.width && taken.every(
          (t) => left >= t[0] + t[2] || left + width <= t[0] || top >= t[1] + t[3] || top + height <= t[1],
        ),
      );
      text.classList.toggle("hidden", !free);
      if (!free) { hidden += 1; continue; }
      taken.push([...free, width, height]);
      text.setAttribute("x", free[0] + 0.25 * size);
      text.setAttribute("y", free[1] + 0.95 * size);
    }
    listing.querySelector("summary").textContent =
      `${labels.length} ${labels.length === 1 ? "box" : "boxes"} as a list` + (hidden ? ` (no room for ${hidden} of the labels)` : "");
  };
  const fit = () => {
    const frame = stage.firstElementChild;
    if (!frame || !viewer.open || !stage.clientWidth) return;
    const [, , width, height] = frame.querySelector("svg").getAttribute("viewBox").split(" ").map(Number);
    frame.style.width = `${Math.min(stage.clientWidth, ((innerHeight - 170) * width) / height)}px`;
    label(frame, { width, height });
  };
  const show = (place) => {
    current = (place + pictures.length) % pictures.length;
    const picture = pictures[current];
    const frame = picture.querySelector(".frame").cloneNode(true);
    stage.replaceChildren(frame);
    const groups = [...frame.querySelectorAll("g.found:not(.object), g.object.missed")];
    const order = (group) => Number(group.classList.contains("object"));
    labels = groups.sort((a, b) => order(a) - order(b))
      .map((group) => [group.querySelector("text"), group.querySelector("rect")]);
    // Over all boxes, those of others too.
    frame.querySelector("svg").append(...labels.map(([text]) => text));
    const [name, result] = picture.querySelector("figcaption").children;
    viewer.querySelector("#viewer-name").textContent = name.textContent;
    viewer.querySelector(".caption span").textContent = result.textContent;
    viewer.querySelector(".place").textContent =
      `${picture.classList.contains("worst") ? "Worst" : "Best"} · ${current + 1} of ${pictures.length}`;
    listing.querySelector("ul").replaceChildren(
      ...labels.map(([, rect]) => {
        const item = document.createElement("li");
        item.textContent = rect.querySelector("title").textContent;
        return item;
      }),
    );
    fit();
  };
  const open = (place) => {
    viewer.showModal();
    show(place);
  };
  pictures.forEach((picture, place) => {
    picture.addEventListener("click", () => open(place));
    picture.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open(place);
    });
  });
  const step = (by) => show(current + by);
  viewer.querySelector(".previous").addEventListener("click", () => step(-1));
  viewer.querySelector(".next").addEventListener("click", () => step(1));
  viewer.querySelector(".close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    step(by);
  });
  // A finger that moves sideways.
  let start = null;
  stage.addEventListener("touchstart", (event) => {
    start = event.touches.length === 1 ? event.touches[0] : null;
  }, { passive: true });
  stage.addEventListener("touchend", (event) => {
    if (!start) return;
    const end = event.changedTouches[0];
    const [x, y] = [end.clientX - start.clientX, end.clientY - start.clientY];
    start = null;
    if (Math.abs(x) > 40 && Math.abs(x) > 1.5 * Math.abs(y)) step(x < 0 ? 1 : -1);
  }, { passive: true });
  addEventListener("resize", fit);
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  // Back to where one was, or has come to.
  viewer.addEventListener("close", () => pictures[current].focus());
  const objects = document.getElementById("show-objects");
  if (objects) {
    objects.addEventListener("change", () => root.classList.toggle("with-objects", objects.checked));
    root.classList.toggle("with-objects", objects.checked);
  }
})();
