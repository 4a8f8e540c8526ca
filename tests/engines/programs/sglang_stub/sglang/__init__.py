"""As much of SGLang 0.5.23 as a loader sees of it, in our own words: SGLang itself needs a GPU to be imported.

Names, signatures and the order of calls are those of sglang/srt/model_loader/loader.py and srt/configs/load_config.py.
"""
