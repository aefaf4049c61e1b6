"""Controls of retrieval that know no gradient and no model: likeness of texts by their words.

* BM25 (Robertson and Zaragoza 2009), with k1 = 1.5 and b = .75: for the words w of a query

      sum_w ln(1 + (N - n_w + 1/2) / (n_w + 1/2)) f (k1 + 1) / (f + k1 (1 - b + b |d| / mean |d|))

  where f is how often w stands in the train text d of |d| words, and n_w in how many of the N train texts it is.
* TF-IDF: cosine of scikit-learn's vectors.

scikit-learn counts words. Letters: q queries, n train rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from pipeline.steps.inputs import WORDS

Array = np.ndarray[Any, Any]

K1, B = 1.5, 0.75


def bm25(queries: Sequence[str], texts: Sequence[str]) -> Array:
    """BM25 of each train text for each query, [q, n]; zeros where no text has a word."""
    if not any(text.strip() for text in texts):
        return np.zeros((len(queries), len(texts)))
    counting = CountVectorizer(token_pattern=WORDS)
    counts = counting.fit_transform(texts).astype(np.float64).tocsr()
    length = np.asarray(counts.sum(1)).ravel()
    held = np.bincount(counts.indices, minlength=counts.shape[1])  # n_w: a word stands once among a text's own
    rarity = np.log1p((len(texts) - held + 0.5) / (held + 0.5))
    of_text = np.repeat(1 - B + B * length / length.mean(), np.diff(counts.indptr))
    weights = counts.copy()
    weights.data = rarity[counts.indices] * counts.data * (K1 + 1) / (counts.data + K1 * of_text)
    asked = (counting.transform(queries) > 0).astype(np.float64)
    scores: Array = (asked @ weights.T).toarray()
    return scores


def tf_idf(queries: Sequence[str], texts: Sequence[str]) -> Array:
    """Cosine of TF-IDF vectors, [q, n]; zeros where no text has a word."""
    if not any(text.strip() for text in texts):
        return np.zeros((len(queries), len(texts)))
    weighting = TfidfVectorizer(token_pattern=WORDS)
    rows = weighting.fit_transform(texts)
    scores: Array = (weighting.transform(queries) @ rows.T).toarray()
    return scores
