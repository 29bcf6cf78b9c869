"""Transcripts -> sentences with their times. A reader for each format, then rules that make sentences of captions."""
