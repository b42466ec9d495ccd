"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const collator = new Intl.Collator("en", { numeric: true });

  const compare = (a, b, heading) => {
    if (!heading.classList.contains("number")) return collator.compare(a.textContent, b.textContent);
    return Number(a.dataset.value) - Number(b.dataset.value);
  };
  const unknown = (cell) => cell.dataset.value === "";

  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      const rows = [...body.rows].sort((first, second) => {
        const [a, b] = [first.cells[column], second.cells[column]];
        if (unknown(a) || unknown(b)) return unknown(a) - unknown(b); // last in both orders
        return (descending ? -1 : 1) * compare(a, b, heading);
      });
      for (const other of headings) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...rows);
    });
  });
}

const toggle = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
const label = () => { toggle.textContent = isDark() ? "Light mode" : "Dark mode"; };
toggle.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  label();
});
system.addEventListener("change", label);
toggle.hidden = false;
label();
