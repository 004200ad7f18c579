// what a reader gains with scripts: numbers under the pointer on line charts, and a button that copies a command
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
