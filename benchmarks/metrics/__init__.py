"""Answers -> numbers: average precision, segments, alignment. Arrays alone."""
