"use strict";
const form = document.getElementById("filters");
const control = (name) => document.getElementById(name);
const articles = [...document.querySelectorAll("article")];
const texts = articles.map((article) => article.textContent.toLowerCase());

function matches(article, index) {
  const { category, change, mark, disagrees } = article.dataset;
  return (!control("category").value || control("category").value === category)
    && (!control("change").value || control("change").value === change)
    && (!control("mark").value || control("mark").value === mark)
    && (!control("disagree").checked || disagrees !== undefined)
    && texts[index].includes(control("text").value.trim().toLowerCase());
}

function filter() {
  let shown = 0;
  articles.forEach((article, index) => {
    article.hidden = !matches(article, index);
    shown += article.hidden ? 0 : 1;
  });
  control("count").textContent = `${shown} of ${articles.length} shown`;
}

function move(step) {
  const visible = articles.filter((article) => !article.hidden);
  const at = visible.indexOf(document.activeElement.closest("article"));
  const next = at < 0 ? (step > 0 ? 0 : visible.length - 1) : at + step;
  if (visible[next]) visible[next].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    form.reset();
    filter();
  } else if (event.target.matches("input[type=search], select")) {
    return;
  } else if (event.key === "j" || event.key === "k") {
    event.preventDefault();
    move(event.key === "j" ? 1 : -1);
  } else if (event.key === "/") {
    event.preventDefault();
    control("text").focus();
  }
});
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
filter();
