"use strict";
// The page is whole without this: it adds sorting and the copy of the raw figures.
const table = document.getElementById("results");
const heads = [...table.tHead.rows[0].cells];
heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const numeric = head.hasAttribute("data-number");
    const value = (row) => row.cells[column].dataset.v ?? "";
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // nothing measured: last
      const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
      return descending ? -order : order;
    });
    table.tBodies[0].append(...rows);
  });
});
document.documentElement.classList.add("js");

const save = document.getElementById("save");
save.hidden = false;
save.addEventListener("click", async () => {
  const text = document.getElementById("document").textContent;
  const packed = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);
  const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await new Response(stream).blob());
  link.download = "report.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});
