"""One entry for every figure and table of the thesis that shows a result.

The functions behind `pellucid reproduce` are in `entries` (what there is), `running` (doing it) and `results_page`.
"""
