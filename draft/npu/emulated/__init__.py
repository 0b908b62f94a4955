"""A stand-in for pyxrt over the host-compiled kernels, strict where silicon is unforgiving.

Used only for draft.device = npu-emulated. What it does not emulate is in draft/npu/README.md.
"""
