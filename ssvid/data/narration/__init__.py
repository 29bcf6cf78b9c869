"""Transcripts -> sentences with their times.

There is a reader for each format of transcript, and rules that make sentences of captions.
"""
