"""The colours of experts and models in pictures and in the terminal."""
COLORS = ["#8c8c8c", "#2f6fb0", "#e08a1e", "#3a9a5b", "#a05bb0", "#c94f4f", "#5bb5c4", "#8a6d3b", "#e377a2", "#b5bd3c",
          "#1b3a5c"]
