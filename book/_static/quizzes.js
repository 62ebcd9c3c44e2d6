// jupyterquiz writes its label beside the field for a number, and says to no screen reader that they belong together.
for (const label of document.querySelectorAll("label.InpLabel")) {
  label.htmlFor = label.nextElementSibling.id;
}
