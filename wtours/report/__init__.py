"""The report: Table 6, Figure 2 and one self-contained page, from what the stages publish."""
