"""The loop: epochs, stages, runs, and what makes them resume with the same bits."""
