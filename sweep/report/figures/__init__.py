"""The figures of a report. Functions here take finished data frames and return matplotlib figures."""

from famba_core.figures import import_matplotlib

import_matplotlib()
