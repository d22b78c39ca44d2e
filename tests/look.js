// What on the page is hard to read or to reach: low contrast, small targets, controls without a name.
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true }), found = [];
  const light = color => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => ((v / 255 + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b + .05;
  };
  const paper = node => {
    const color = getComputedStyle(node).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" ? paper(node.parentElement) : color;
  };
  // The color of the last filled shape that is drawn before a text in the same group.
  const under = node => {
    const shapes = [...node.parentElement.children].filter(one => node instanceof SVGElement && one.matches("rect, path"));
    const before = shapes.filter(one => one.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING);
    return before.map(one => getComputedStyle(one).fill).findLast(fill => fill !== "none");
  };
  for (const node of document.querySelectorAll("main *")) {
    const has_text = [...node.childNodes].some(child => child.nodeType === Node.TEXT_NODE && child.data.trim());
    const drawn = node instanceof SVGElement;
    if (!has_text || !node.getBoundingClientRect().width) continue;
    const ink = getComputedStyle(node)[drawn ? "fill" : "color"];
    const ratio = light(ink) / light(under(node) ?? paper(node));
    if (Math.max(ratio, 1 / ratio) < 4.5) found.push(`${node.textContent}: contrast ${ratio}`);
  }
  const names = new Set();
  for (const node of document.querySelectorAll("button, input, select, textarea, [role=switch]")) {
    const { height } = node.getBoundingClientRect();
    if (height && height < 24) found.push(`${node.outerHTML}: ${height} px`);
    const name = (node.labels?.[0] ?? node).textContent.trim();
    if (!name) found.push(`${node.outerHTML} has no name`);
    if (node.matches("button[name]") && names.has(name)) found.push(`two buttons: ${name}`);
    names.add(name);
  }
  return found;
}
