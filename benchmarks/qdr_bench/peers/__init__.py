"""What a user could pick instead of our artefacts, measured in the same rounds.

Each peer is made from the bundle's float twin: the same network, weights and images. On a device
that no target is for, the bundle's own artefact is a peer too.

    forms.py        opens a cell in its process, whatever form it has
    torch_form.py   the float twin in torch: eager, channels-last, compiled, on CUDA
    torch_net.py    from its ONNX file to real torch modules
    paper.py        torch's eager quantization, the recipe of the published code
    ort_cuda.py     ONNX Runtime on an NVIDIA GPU
    ort_ptq.py      ONNX Runtime's own post-training quantization
    nncf_ptq.py     NNCF's, for OpenVINO
"""
