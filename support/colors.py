"""One color for each domain, expert and method: in pictures, in the terminal and on the page."""
from itertools import cycle

DOMAINS = {"seed": "#b4b4b4", "math": "#56b4e9", "code": "#ee8a3c", "wiki": "#f0e442", "general": "#cc79a7",
           "trivia": "#00b38a", "switch": "#a9a1ff"}
MORE = ["#ff9da7", "#9c755f", "#86bcb6", "#d37295", "#b6992d", "#499894", "#79706e", "#d7b5a6"]  # for one's own
METHODS = {"seed": "#b4b4b4", "BTX": "#1f3fbf", "BTX from text": "#8a2be2", "average": "#c62828", "BTM": "#7a4a12",
           "Dense in one phase": "#1a1a1a", "Dense in two phases": "#6b6b2a", "upcycling": "#c2187a",
           "larger dense model": "#4f7a8a", "BTX Sample Top-1": "#0f1f5c", "task arithmetic": "#2e8b57"}


def color_domains(names):
    """{name: color} for domains, or for the experts that were trained on them."""
    more = cycle(MORE)
    return {name: DOMAINS.get(name) or next(more) for name in names}
