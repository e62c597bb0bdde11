"""Plots of a report as inline SVG whose colours follow the page, light or dark."""
