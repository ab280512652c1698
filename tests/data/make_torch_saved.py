"""Write torch_saved.pt, which test_torch_file.py reads (needs torch)."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch

a = torch.arange(48.0).reshape(6, 8) / 7
state = OrderedDict(
    whole=a,
    transposed=a.t(),
    view=a[2:5, 1:7:2],
    parameter=torch.nn.Parameter(a[1:]),
    half=a.half(),
    bfloat16=a.bfloat16(),
    double=a.double(),
    int8=a.to(torch.int8),
    int16=a.to(torch.int16),
    int32=a.to(torch.int32),
    int64=torch.tensor(3),
    uint8=a.to(torch.uint8),
    bool=a > 3,
    empty=torch.zeros(0, 3),
)
layer = torch.nn.Linear(2, 1)
optimizer = torch.optim.AdamW(layer.parameters())
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
trained = {
    "model": state,
    "optimizer": optimizer.state_dict(),
    "epoch": 3,
    "loss": {"core": 1.5, "best": None},
    "steps": {"train": 10},
    "seen": {1, 2},
    "size": torch.Size([1]),
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "bytes": b"ab",
    "other": layer.state_dict(),
}
torch.save(trained, Path(__file__).with_name("torch_saved.pt"))
