"""The colours of every figure: Okabe and Ito's palette, which colour-blind readers can tell apart."""

BLACK = "#000000"
GREY = "#6b6b6b"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
