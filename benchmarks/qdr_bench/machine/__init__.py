"""What is read of the machine: files of /proc and /sys, NVML, and power sensors.

Every reader takes a ProcTree, whose root a test may point at a recorded tree. What cannot be read
is absent – None, never zero.

    tree.py          reads one node
    environment.py   what stays the same, and what may change while measuring
    jetson.py        board, release, power mode, clocks, rails, throttling
    nvidia.py        a GPU through NVML
    power.py         which sensor there is, and energy for an image
"""
