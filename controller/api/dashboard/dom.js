// Elements from data. Text only ever enters as text nodes, so nothing that an event, a version
// or an operator wrote can become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export const h = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

export const s = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

// Sets text only where it changed: selections stay, screen readers stay quiet.
export function text(element, wanted) {
  if (element.textContent !== wanted) element.textContent = wanted;
}
