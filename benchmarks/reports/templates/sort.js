// A click on a heading of a table.sorted sorts its rows; rows without a value come last.
for (const table of document.querySelectorAll("table.sorted")) {
  const heads = [...table.querySelectorAll("thead tr:last-child th")];
  heads.forEach((head, column) => {
    if (!head.dataset.sort) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      const body = table.tBodies[0];
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
      const order = (a, b) => !a || !b ? (!a) - (!b) : (descending ? -1 : 1) * compare(a, b);
      body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
    };
  });
}
