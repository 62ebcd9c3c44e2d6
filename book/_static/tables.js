// Headers of tables that can be sorted (sortable.js) become buttons: reached by Tab, pressed by Enter or Space.
// Without this script they are plain headers.
for (const header of document.querySelectorAll("table.sortable thead th:not(.no-sort)")) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = "Sort by this column";
  button.append(...header.childNodes);
  header.append(button);
}
