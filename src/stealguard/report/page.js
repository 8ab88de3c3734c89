const all = (css, within = document) => [...within.querySelectorAll(css)];

// Sorting: click a heading, or press Enter on it.
for (const table of all("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column], text = cell.classList.contains("no") ? "" : cell.dataset.v ?? cell.textContent.trim();
    return cell.classList.contains("n") ? parseFloat(text) : text;  // NaN where there is no number
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (a, b) => {
      const none = [a, b].map(x => x === "" || Number.isNaN(x));
      if (none[0] || none[1]) return none[0] - none[1];  // what is missing stays at the end
      return (up ? 1 : -1) * (typeof a === "number" ? a - b : a.localeCompare(b, "en", {numeric: true}));
    };
    const rows = [...body.rows].map(row => [value(row, column), row]);
    body.append(...rows.sort((a, b) => compare(a[0], b[0])).map(pair => pair[1]));
  }));
}

// Filtering: what does not match is hidden, in tables and drawings alike.
const form = document.getElementById("filters"), cells = document.getElementById("cells");
if (form) {
  const groups = all("#settings tbody tr"), lines = all("#cells tbody tr"), first = 4;  // columns before the groups'
  const text = row => (row.dataset.text ?? [...row.cells].slice(0, first).map(cell => cell.textContent).join(" ")).toLowerCase();
  const texts = new Map([...groups, ...lines].map(row => [row, text(row)]));
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("input", () => {
    const chosen = Object.fromEntries(new FormData(form));
    const fits = row => ["data", "defense", "attack", "labels"].every(name => !chosen[name] || !(name in row.dataset) || row.dataset[name] === chosen[name]);
    let someGroups = groups.filter(fits), someLines = lines.filter(fits);
    for (const word of chosen.words.toLowerCase().split(/\s+/).filter(Boolean)) {
      const has = row => texts.get(row).includes(word);
      if (groups.some(has) || !lines.some(has)) someGroups = someGroups.filter(has);
      else someLines = someLines.filter(has);
    }
    const shown = new Set(someGroups.map(row => row.dataset.g)), columns = groups.map((_, g) => shown.has(`${g}`));
    const kept = new Set(someLines.filter(row => [...row.cells].slice(first).some((cell, g) => columns[g] && cell.textContent !== "–")));
    const numbers = new Set([...kept].map(row => row.dataset.l));
    for (const item of all("[data-g], [data-l], [data-task]")) {
      const {g, l, task} = item.dataset;
      item.classList.toggle("off", (g !== undefined && !g.split(" ").some(one => shown.has(one))) || (l !== undefined && !numbers.has(l)) || (task !== undefined && !!chosen.data && task !== chosen.data));
    }
    for (const row of lines) columns.forEach((on, g) => row.cells[first + g].classList.toggle("off", !on));
    form.querySelector("output").value = `${shown.size} of ${groups.length} settings, ${kept.size} of ${lines.length} attacks`;
  });
}

// Telling: a cell or mark that is pointed at, tapped or focused says more at the foot of the window.
const told = document.getElementById("told");
const tell = target => {
  const item = target.closest?.("#cells tbody td.c, .tip");
  if (!item) return void (told.textContent = "");
  if (item.tagName !== "TD") return void (told.textContent = item.querySelector("title").textContent);
  if (item.title) { item.dataset.t = item.title; item.removeAttribute("title"); }
  const row = item.parentNode, name = cells.tHead.rows[0].cells[item.cellIndex].textContent.trim();
  const line = [...row.cells].slice(0, 3).map(cell => cell.textContent.trim()).join(", ");
  told.textContent = `${name}, ${line}: ${item.firstChild.textContent}${item.classList.contains("no") ? "" : " %"}. ${item.dataset.t}`;
};
for (const kind of ["pointerover", "focusin", "click"]) document.addEventListener(kind, event => tell(event.target));
document.addEventListener("keydown", event => { if (event.key === "Escape") told.textContent = ""; });

// The matrix is one stop for the Tab key; arrow keys move within it.
const walk = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
const start = cells.querySelector("tbody td.c");
if (start) start.tabIndex = 0;
cells.addEventListener("keydown", event => {
  const from = event.target.closest("td.c"), step = walk[event.key];
  if (!from || !step) return;
  event.preventDefault();
  let row = from.parentNode, column = from.cellIndex;
  do {
    if (step[0]) row = step[0] > 0 ? row.nextElementSibling : row.previousElementSibling;
    column += step[1];
  } while (row?.cells[column]?.matches(".off, .off *"));
  const to = row?.cells[column];
  if (!to?.classList.contains("c")) return;
  from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
});
