"""What a machine can reach with a target and a draft, predicted; it opens no device, times nothing.

Costs come from a roofline of bytes and operations or from measured tables, acceptance from recorded
traces or a given rate. Every figure says whether it is measured, modelled or assumed.
"""
