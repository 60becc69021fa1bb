"use strict";

const base = document.body.dataset.base;
const page = document.body.dataset.page;
const known = window.xpipeAtlas || { layers: [], classes: [] };
const at = (id) => document.getElementById(id);
const search = at("search");
const found = at("found");
const LIMIT = 40;

document.documentElement.classList.add("js");

// pages from a file system may have no storage
function recall(name) {
  try { return localStorage.getItem("xpipe." + name); } catch { return null; }
}
function keep(name, value) {
  try { localStorage.setItem("xpipe." + name, value); } catch { /* shown for this page alone */ }
}

// ---- what is shown

function toggle(name, isOn) {
  const button = at(name);
  if (!button) return;
  button.setAttribute("aria-pressed", String(isOn));
  document.body.classList.toggle(name === "heat" ? "no-heat" : name, name === "heat" ? !isOn : isOn);
  keep(name, isOn ? "1" : "0");
}
for (const [name, isOnAtFirst] of [["heat", true], ["whole", false]]) {
  const button = at(name);
  if (!button) continue;
  const before = recall(name);
  toggle(name, before === null ? isOnAtFirst : before === "1");
  button.addEventListener("click", () => toggle(name, button.getAttribute("aria-pressed") !== "true"));
}
function press(name) {
  const button = at(name);
  if (button) button.click();
}

const sort = at("sort");
if (sort) {
  sort.addEventListener("change", () => {
    const key = sort.value;
    const sign = key === "channel" ? 1 : -1;
    const value = (card) => (key in card.dataset ? sign * Number(card.dataset[key]) : Infinity);
    const cards = Array.from(document.querySelectorAll(".card"));
    cards.sort((a, b) => value(a) - value(b) || a.dataset.channel - b.dataset.channel);
    at("cards").replaceChildren(...cards);
  });
}

// ---- walking from card to card

function current(items) {
  const active = document.activeElement && document.activeElement.closest(".item");
  if (active) return items.indexOf(active);
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  return target && target.classList.contains("item") ? items.indexOf(target) : -1;
}
function step(by) {
  const items = Array.from(document.querySelectorAll(".item"));
  if (!items.length) return;
  const next = items[Math.min(items.length - 1, Math.max(0, current(items) + by))];
  const focused = next.matches(".card") ? next : next.querySelector("a");
  focused.focus({ preventScroll: true });
  next.scrollIntoView({ block: next.matches(".card") ? "start" : "nearest" });
  // a link to where one is, without an entry in the history for each step
  if (next.id) history.replaceState(null, "", "#" + next.id);
}
function follow(id) {
  const link = at(id);
  if (link) link.click();
}

// ---- search

function option(href, text, beside) {
  const link = document.createElement("a");
  link.href = href;
  link.role = "option";
  link.tabIndex = -1;
  link.id = "option" + found.querySelectorAll("a").length;
  link.append(text);
  if (beside) {
    const small = document.createElement("small");
    small.append(beside);
    link.append(small);
  }
  link.addEventListener("click", close);
  found.append(link);
}
function heading(text) {
  const line = document.createElement("p");
  line.append(text);
  found.append(line);
}
const address = (layer) => base + "layers/" + layer.page;
function concept(layer, channel) {
  const isHere = layer.page === page;
  option((isHere ? "" : address(layer)) + "#c" + channel, "#" + channel, isHere ? "this layer" : layer.name);
}
function findChannels(words, channel) {
  const places = known.layers.filter((layer) => layer.n > channel && matches(layer.name, words));
  places.sort((a, b) => exactness(b, words) - exactness(a, words) || (b.page === page) - (a.page === page));
  if (places.length) heading("concepts #" + channel);
  for (const layer of places.slice(0, LIMIT)) concept(layer, channel);
}
function findLayers(words) {
  const places = known.layers.filter((layer) => matches(layer.name, words));
  places.sort((a, b) => exactness(b, words) - exactness(a, words));
  if (places.length) heading("layers");
  for (const layer of places.slice(0, LIMIT)) option(address(layer), layer.name, layer.n + " concepts");
}
function findClasses(text) {
  const named = known.classes.filter((each) => plain(each.name).includes(text));
  // the whole name before a part of it, short names before long ones
  named.sort((a, b) => a.name.length - b.name.length);
  for (const each of named.slice(0, 6)) {
    heading("concepts of " + each.name);
    for (const [place, channel] of each.concepts.slice(0, 12)) concept(known.layers[place], channel);
  }
}
const plain = (text) => text.toLowerCase().replace(/[_\s]+/g, " ");
function matches(name, words) {
  return words.every((word) => plain(name).includes(word));
}
// how many words are parts of a name, and not only somewhere in it
function exactness(layer, words) {
  const parts = plain(layer.name).split(/[^a-z0-9]+/);
  return words.filter((word) => word === plain(layer.name) || parts.includes(word)).length;
}
function look() {
  found.replaceChildren();
  const text = plain(search.value.trim());
  if (text) {
    // a number may be a layer's name or a channel; with # or the word before it, only a channel
    const marked = text.replace(/\b(channel|concept)s? *#?(?=\d)/g, "#").replaceAll("#", " #");
    const given = marked.split(/[\s,]+/).filter((part) => part && part !== "#");
    const rest = given.filter((part) => !/^(layer|channel|concept)s?$/.test(part));
    const parts = rest.length ? rest : given;
    const hashed = parts.filter((part) => part.startsWith("#"));
    const words = parts.filter((part) => !part.startsWith("#"));
    if (!hashed.length && given[0].startsWith("layer")) findLayers(words);
    for (const part of hashed.length ? hashed : words.filter((word) => /^c?\d+$/.test(word))) {
      findChannels(words.filter((word) => word !== part), Number(part.replace(/\D/, "")));
    }
    if (!hashed.length && !given[0].startsWith("layer")) findLayers(words);
    findClasses(text);
    if (!found.children.length) heading("nothing found");
  }
  open(Boolean(text));
  select(0);
}
function open(isOpen) {
  found.hidden = !isOpen;
  search.setAttribute("aria-expanded", String(isOpen));
}
function close() {
  open(false);
  search.blur();
}
function select(place) {
  const options = Array.from(found.querySelectorAll("a"));
  options.forEach((link, index) => link.setAttribute("aria-selected", String(index === place)));
  search.setAttribute("aria-activedescendant", options.length ? options[place].id : "");
  if (options.length) options[place].scrollIntoView({ block: "nearest" });
}
function selected() {
  return Array.from(found.querySelectorAll("a")).findIndex((link) => link.ariaSelected === "true");
}
search.addEventListener("input", look);
search.addEventListener("focus", () => { if (search.value) look(); });
search.addEventListener("keydown", (event) => {
  const n = found.querySelectorAll("a").length;
  if (event.key === "ArrowDown" && n) select((selected() + 1) % n);
  else if (event.key === "ArrowUp" && n) select((selected() + n - 1) % n);
  else if (event.key === "Enter" && n && !found.hidden) found.querySelectorAll("a")[Math.max(0, selected())].click();
  else if (event.key === "Escape") close();
  else return;
  event.preventDefault();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".search")) open(false);
});

// ---- keys

const keys = at("keys");
at("help").addEventListener("click", () => keys.showModal());
const actions = {
  "/": () => { search.focus(); search.select(); },
  j: () => step(1), ArrowRight: () => step(1),
  k: () => step(-1), ArrowLeft: () => step(-1),
  h: () => press("heat"), c: () => press("whole"),
  "[": () => follow("before"), "]": () => follow("after"), u: () => follow("up"),
  "?": () => keys.showModal(),
};
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, select, textarea, dialog");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
});
