"""How well a model does on labelled data, run as the daemon runs it: in its worker, from picture to answer.

    data set   ->   worker (preprocess, inference, decoder)   ->   figures

`evaluate.py` brings them together; `edge-agent evaluate` prints what it finds, tools/evaluate.py also draws it and
writes it into the manifest. numpy and OpenCV do: a device can measure itself.
"""
