"""All measures, by topic, in the order in which they are shown. Start reading at `base`; import MEASURES from here."""

from __future__ import annotations

from measures import ahead, data, dispatch, durable, failures, media, start, watching, web, web_streams
from measures.base import Measure

TOPICS = (dispatch, durable, ahead, data, watching, failures, start, web, web_streams, media)
MEASURES: dict[str, Measure] = {name: measure for topic in TOPICS for name, measure in topic.MEASURES.items()}
