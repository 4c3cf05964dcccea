"use strict";
// Charts take the place of the drawn figures; a chart that fails leaves its figure.
(() => {
  const source = document.getElementById("charts");
  for (const [name, spec] of source ? Object.entries(JSON.parse(source.textContent)) : []) {
    const place = document.querySelector(`[data-chart="${name}"]`);
    const drawing = place.firstElementChild;
    const chart = document.createElement("div");
    chart.style.width = "100%";
    chart.style.minWidth = `${spec.usermeta?.least_width ?? 0}px`;
    place.append(chart);
    // ast: expressions are interpreted, since the page's policy allows no evaluated text.
    vegaEmbed(chart, spec, { renderer: "svg", actions: false, ast: true, tooltip: { theme: "dark" } }).then(
      () => drawing.remove(),
      (error) => { chart.remove(); console.error(error); },
    );
  }

  const value = (row, column) => row.cells[column].dataset.key;
  const number = (text) => (text !== undefined && text !== "" && isFinite(text) ? Number(text) : null);

  // Numbers before texts, what is missing always last.
  function compared(a, b, down) {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const x = number(a), y = number(b);
    const order = x !== null && y !== null ? x - y : x !== null ? -1 : y !== null ? 1 : a < b ? -1 : +(a > b);
    return down ? -order : order;
  }

  // A word stands somewhere in the row; `column > 3` is of that column. All parts between "and" must hold.
  function wanted(text, names) {
    const tests = text.split(/\s+and\s+/i).map((part) => part.trim()).filter(Boolean).map((part) => {
      const found = part.match(/^(.+?)\s*(<=|>=|!=|<|>|=)\s*(.+)$/);
      const column = found ? names.indexOf(found[1].trim().toLowerCase()) : -1;
      if (column < 0) return (row) => row.textContent.toLowerCase().includes(part.toLowerCase());
      const [, , sign, right] = found;
      return (row) => {
        const left = value(row, column);
        if (left === undefined) return false;
        const x = number(left), y = number(right);
        const order = x !== null && y !== null ? Math.sign(x - y) : left.toLowerCase() === right.toLowerCase() ? 0 : NaN;
        return { "<": order < 0, ">": order > 0, "<=": order <= 0, ">=": order >= 0, "=": order === 0, "!=": order !== 0 }[sign];
      };
    });
    return (row) => tests.every((test) => test(row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const headers = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const names = headers.map((header) => header.textContent.trim().toLowerCase());
    headers.forEach((header, column) => header.firstElementChild.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...[...body.rows].sort((a, b) => compared(value(a, column), value(b, column), down)));
    }));
    const input = document.querySelector(`[data-filter="${table.id}"]`);
    const count = document.querySelector(`[data-count="${table.id}"]`);
    const show = () => {
      const fits = wanted(input.value, names);
      let shown = 0;
      for (const row of body.rows) shown += !(row.hidden = !fits(row));
      count.textContent = `${shown} of ${body.rows.length} rows`;
    };
    input.addEventListener("input", show);
    show();
  }
})();
