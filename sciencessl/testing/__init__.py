"""Conformance kits: what a domain or a method of one's own must do to work with everything else.

>>> from sciencessl.testing import check_domain, check_method  # doctest: +SKIP
>>> check_method("my_method.py:MyMethod")  # doctest: +SKIP
"""

from sciencessl.testing.domain import check_domain
from sciencessl.testing.method import check_method
from sciencessl.testing.requirement import ConformanceError

__all__ = ["ConformanceError", "check_domain", "check_method"]
