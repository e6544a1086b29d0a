"""The bar as a tag of Django's templates: `{% load procjobs %}{% procjobs_progress job "Film 7" src="/jobs/" %}`.

Django finds it by its settings: `TEMPLATES = [{..., "OPTIONS": {"libraries": {"procjobs": "procjobs.web.django_tags"}}}]`.
"""

from __future__ import annotations

from typing import Any, Final

from django.template import Library

from procjobs.web.element import tag

register: Final[Any] = Library()
register.simple_tag(tag, name="procjobs_progress")
