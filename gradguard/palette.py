"""The colours of every picture."""

# Okabe and Ito's, told apart by all eyes (jfly.uni-koeln.de/color, 2008).
BLUE = "#0072b2"
VERMILLION = "#d55e00"
GREEN = "#009e73"
PURPLE = "#cc79a7"
ORANGE = "#e69f00"
SKY = "#56b4e9"

COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
