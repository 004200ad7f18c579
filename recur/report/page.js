// what a reader gains with scripts: numbers under the pointer, and a button that copies a command
for (const figure of document.querySelectorAll("figure.lines")) {
  const plot = figure.querySelector("svg.plot");
  const hair = figure.querySelector(".hair");
  const rows = [...figure.querySelectorAll("tbody tr")];
  if (!plot || rows.length < 2) continue;
  const outputs = [...figure.querySelectorAll("output")];
  const last = outputs.map((output) => output.textContent);
  const label = outputs[0].dataset.label;
  let shown = rows.length;
  const show = (index) => {
    shown = Math.max(0, Math.min(rows.length - 1, index));
    const row = rows[shown];
    outputs.forEach((output, i) => (output.textContent = (i ? "" : label + " ") + row.cells[i].textContent));
    for (const end of ["x1", "x2"]) hair.setAttribute(end, row.dataset.x + "%");
    hair.removeAttribute("visibility");
  };
  const reset = () => {
    shown = rows.length;
    outputs.forEach((output, i) => (output.textContent = last[i]));
    hair.setAttribute("visibility", "hidden");
  };
  const follow = (event) => {
    const box = plot.getBoundingClientRect();
    const at = (100 * (event.clientX - box.left)) / box.width;
    const distance = (row) => Math.abs(row.dataset.x - at);
    show(rows.reduce((best, row, i) => (distance(row) < distance(rows[best]) ? i : best), 0));
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", reset);
  plot.addEventListener("blur", reset);
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(shown + step);
  });
  plot.tabIndex = 0;
}

// where the pointer is on a plot, in shares of its width and height
const place = (event, box) => [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];

for (const figure of document.querySelectorAll("figure.heat")) {
  const cell = figure.querySelector(".cell");
  if (!cell) continue;
  const plot = figure.querySelector("svg.plot");
  const output = figure.querySelector("output");
  const { columns, rows, x, y, xLabel, yLabel, xNames, yNames, ends, log, levels } = cell.dataset;
  const [low, high] = ends.split(" ").map(Number);
  const bytes = atob(levels);
  const range = (index, spec, names) => {
    if (names) return JSON.parse(names)[index];
    const [first, per, count] = spec.split(" ").map(Number);
    const last = Math.min(count, (index + 1) * per) - 1;
    return first + index * per + (per > 1 && last > index * per ? "–" + (first + last) : "");
  };
  const number = (level) => {
    if (!level) return "blank";
    const value = low + ((level - 1) / 65534) * (high - low);
    if (!log) return String(Number(value.toPrecision(3)));
    return Math.abs(value) < 280 ? String(Number((10 ** value).toPrecision(3))) : "1e" + value.toFixed(1);
  };
  const follow = (event) => {
    const [across, down] = place(event, figure.querySelector("image").getBoundingClientRect());
    const column = Math.max(0, Math.min(columns - 1, Math.floor(across * columns)));
    const row = Math.max(0, Math.min(rows - 1, Math.floor(down * rows)));
    const at = 2 * (row * columns + column);
    const level = bytes.charCodeAt(at) + 256 * bytes.charCodeAt(at + 1);
    output.textContent = `${xLabel} ${range(column, x, xNames)}, ${yLabel} ${range(row, y, yNames)}: ${number(level)}`;
    cell.setAttribute("x", (100 * column) / columns + "%");
    cell.setAttribute("y", (100 * row) / rows + "%");
    cell.removeAttribute("visibility");
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", () => {
    output.textContent = "";
    cell.setAttribute("visibility", "hidden");
  });
}

for (const figure of document.querySelectorAll("figure.planes")) {
  const output = figure.querySelector("output");
  const names = [...figure.querySelectorAll(".legend bdi")].map((name) => name.textContent);
  for (const plot of figure.querySelectorAll("svg.plot")) {
    const points = [...plot.querySelectorAll(".dots")].reverse().flatMap((path) => {
      const name = names[[...figure.querySelectorAll(".legend .dots")].findIndex((key) => key.classList.value === path.classList.value)];
      return [...path.getAttribute("d").matchAll(/M(\S+) (\S+?)h0/g)].map(([, x, y]) => [x / 100, y / 100, name]);
    });
    const follow = (event) => {
      const [across, down] = place(event, plot.getBoundingClientRect());
      const far = ([x, y]) => (x - across) ** 2 + (y - down) ** 2;
      const best = points.reduce((one, other) => (far(other) < far(one) ? other : one), points[0]);
      if (!best) return;
      const [re, im] = [2 * best[0] - 1, 1 - 2 * best[1]].map((share) => share * plot.dataset.reach);
      const sign = im < 0 ? "−" : "+";
      output.textContent = `${best[2]}: ${re.toFixed(3)} ${sign} ${Math.abs(im).toFixed(3)}i, |λ| ${Math.hypot(re, im).toFixed(3)}`;
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", () => (output.textContent = ""));
  }
}

for (const figure of document.querySelectorAll("figure.histograms")) {
  const output = figure.querySelector("output");
  for (const panel of figure.querySelectorAll(".panel")) {
    const name = panel.querySelector(".name").textContent;
    for (const bar of panel.querySelectorAll(".catch")) {
      const show = () => (output.textContent = `${name}, ${bar.textContent}`);
      bar.addEventListener("pointerenter", show);
      bar.addEventListener("pointerdown", show);
      bar.addEventListener("pointerleave", () => (output.textContent = ""));
    }
  }
}

for (const block of document.querySelectorAll(".command")) {
  const button = document.createElement("button");
  const code = block.querySelector("code");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  block.append(button);
}
