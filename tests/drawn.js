// Where the article's pictures differ from what its models compute.
() => {
  const found = [], box = $("hero_box");
  const check = (what, drawn, right) => drawn === right || found.push(`${what}: ${drawn}, not ${right}`);
  for (const { routing, span } of box.tokens) {
    const gates = expert_load(routing), top = gates.indexOf(Math.max(...gates));
    check(span.textContent, span.title, `${experts[top]} ${Math.round(100 * gates[top])} %`);
  }
  const chosen = box.tokens.find(({ span }) => span.classList.contains("chosen"));
  chosen.routing.forEach((routing, layer) => dense_gates(routing).forEach((gate, i) => {
    const drawn = box.rows[i].children[layer].textContent.replace(/^[a-z]+/i, "");
    check(`layer ${layer}, ${experts[i]}`, drawn, gate ? gate.toFixed(2) : "");
  }));
  // the branches' losses begin at 1 times those of the seed; the curves of finetuning end with the finetuned mixture
  for (const line of all("#charts polyline")) check("charts", line.getAttribute("points").split(" ")[0], "36,120");
  const ends = all("#tune_curve polyline").map(line => line.getAttribute("points").split(" ").at(-1));
  check("tune", ends.sort().join(" "), domains.map(one => `236,${178 - 4.2 * count_right(one)}`).sort().join(" "));
  return found;
}
