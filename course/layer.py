"""Draw a layer of BTX as one picture, course/layer.svg: python -m course.layer."""
from pathlib import Path

from support.explore import COLORS
from support.files import write_text

NAMES = ("seed", "math", "code", "wiki")
GREY, LIGHT = "#555555", "#f3f3f3"


def box(x, y, width, height, text, fill=LIGHT, color="black"):
    """A rectangle with a line of text in its middle."""
    return (f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{GREY}"/>'
            f'<text x="{x + width / 2}" y="{y + height / 2 + 5}" fill="{color}" text-anchor="middle">{text}</text>')


def label(x, y, text, anchor="start", size=13):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{GREY}">{text}</text>'


def arrow(*points, width=1.5, color=GREY, dash=""):
    """A line through the points (x, y), with a head at its end."""
    places = " ".join(f"{x},{y}" for x, y in points)
    return (f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="{width}" stroke-dasharray="{dash}"'
            ' marker-end="url(#head)"/>')


def layer():
    """The picture's source."""
    parts = [
        label(30, 30, "One layer of Branch-Train-MiX, and where each part comes from", size=17),
        arrow((90, 610), (90, 60), width=3), label(100, 606, "x, the residual stream"),
        box(150, 520, 520, 46, "self-attention: the AVERAGE of the four models'"),
        arrow((90, 580), (410, 580), (410, 568)), arrow((150, 543), (93, 543)), label(420, 584, "norm (averaged)"),
        arrow((90, 490), (410, 490), (410, 468)), label(420, 494, "norm (averaged)"),
        box(330, 420, 160, 46, "router W: NEW"), label(500, 440, "logits W x, one for each expert"),
        label(500, 458, "g = SoftMax(TopK(W x)), here k = 2"),
        label(150, 410, "this token's gates:")]
    for i, (name, gate) in enumerate(zip(NAMES, ("", "0.8", "", "0.2"), strict=True)):
        x = 150 + 135 * i
        parts.append(box(x, 280, 115, 56, f"FF of {name}", COLORS[i] if gate else LIGHT, "white" if gate else "#999999"))
        parts.append(label(x + 4, 272, f"expert {i + 1}", size=11))
        if gate:
            parts.append(arrow((410, 420), (x + 57, 338), color=COLORS[i], width=2.5))
            parts.append(label(x + 57 + (20 if x > 350 else -14), 378, f"g = {gate}", "start" if x > 350 else "end"))
            parts.append(arrow((x + 57, 280), (x + 57, 210), color=COLORS[i], width=2.5))
        else:
            parts.append(label(x + 57, 356, "not computed", "middle", 11))
    parts += [
        label(700, 305, "each expert is"), label(700, 323, "one model's feed-"), label(700, 341, "forward, STACKED"),
        box(150, 162, 520, 46, "FF_MoE(x) = sum of g_i FF_i(x)"), arrow((150, 185), (93, 185)),
        label(100, 75, "to the next layer"),
        label(30, 650, "The four models are trained apart, with no communication. Then all of this is finetuned on text of all "
              "domains,", size=12),
        label(30, 668, "so that W learns which two experts to use for each token.", size=12)]
    head = (f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{GREY}"/></marker></defs>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 690" font-family="sans-serif" font-size="14">{head}'
            f'<rect width="840" height="690" fill="white"/>{"".join(parts)}</svg>\n')


if __name__ == "__main__":
    write_text(Path(__file__).with_name("layer.svg"), layer())
