"""A QDQ ONNX file that another tool made → a checkpoint, the same hand-off that training writes.

    reading.py      bytes → a checked model with known shapes; refuses what cannot be looked into
    constants.py    stored tensors, folded: weights as integers, whatever way they were written
    pixels.py       from uint8 pixels to the first codes
    operators.py    one ONNX operator → one operator of the checkpoint's graph
    tracing.py      what is known of tensors while the walk goes on
    rounding.py     QuantizeLinear and DequantizeLinear: the grid of every tensor
    weights.py      weights as integers for each output channel, bias as a real number
    lifting.py      the walk: operators and fused activations
    grids.py        one grid for each tensor: moved through pooling, split, found missing
    normalising.py  drafts → graph, tensors and scheme
    source.py       the original file in ONNX Runtime: logits, and ranges of tensors without a grid
    proof.py        the original's logits beside the integer reference's
    run.py          all of it in order, and the run folder

Every rule that a file breaks is collected (findings.py) and reported at once; so is every
normalisation, with whether it changes numbers.
"""
