// A person edits: a box is ticked with a click, any other cell opens with a double click or Enter.
"use strict";

const place = (cell) => ({
  sheetId: Number(cell.dataset.sheet),
  row: Number(cell.dataset.row),
  column: Number(cell.dataset.column),
});

async function save(cell, text) {
  const book = location.pathname.split("/").pop();
  const answer = await fetch(`/_standin/sheets/${book}/cells`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...place(cell), text }),
  });
  const told = document.getElementById("told");
  told.textContent = answer.ok ? "" : (await answer.json()).error.message;
  return answer.ok;
}

function open(cell) {
  if (cell.classList.contains("locked") || cell.querySelector("input")) return;
  const shown = cell.textContent;
  const input = document.createElement("input");
  input.value = cell.dataset.raw;
  input.setAttribute("aria-label", "Value of the cell");
  cell.replaceChildren(input);
  input.focus();
  let done = false;
  const close = async (text) => {
    if (done) return;
    done = true;
    if (text === null || text === cell.dataset.raw) cell.textContent = shown;
    else if (await save(cell, text)) {
      cell.textContent = text;
      cell.dataset.raw = text;
    } else cell.textContent = shown;
  };
  input.addEventListener("blur", () => close(input.value));
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") close(input.value);
    if (event.key === "Escape") close(null);
  });
}

document.addEventListener("dblclick", (event) => {
  const cell = event.target.closest("td[data-row]");
  if (cell) open(cell);
});
document.addEventListener("click", (event) => {
  const cell = event.target.closest("td[data-row]");
  if (cell && !cell.querySelector("input")) {
    cell.tabIndex = 0;
    cell.focus();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("td[data-row]")) {
    event.preventDefault();
    open(event.target);
  }
});
document.addEventListener("change", async (event) => {
  const box = event.target;
  if (!box.matches("td[data-row] input[type=checkbox]")) return;
  if (!(await save(box.closest("td"), box.checked ? "TRUE" : "FALSE"))) box.checked = !box.checked;
});
