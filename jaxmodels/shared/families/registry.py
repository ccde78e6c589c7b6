"""Which family a task is of: chosen by the type of its data config.

>>> family = family_of(TASKS["imdb-lstm"])
>>> family.INPUTS, family.TARGET, family.LOSS
(('tokens', 'lengths'), 'label', 'cross-entropy')
"""

from jaxmodels.shared.data.houses import HouseDataConfig
from jaxmodels.shared.data.images import ImageDataConfig
from jaxmodels.shared.data.lms import LMSDataConfig
from jaxmodels.shared.data.reviews import ReviewDataConfig
from jaxmodels.shared.data.series import SeriesDataConfig
from jaxmodels.shared.data.subwords import SubwordDataConfig
from jaxmodels.shared.data.text import TextDataConfig
from jaxmodels.shared.data.wikitext import WikiTextDataConfig
from jaxmodels.shared.families import (
    houses,
    images,
    lms,
    reviews,
    series,
    subwords,
    text,
    wikitext,
)
from jaxmodels.shared.families.family import Family
from jaxmodels.shared.tasks import DataConfig, Task

FAMILIES: dict[type[DataConfig], Family] = {
    ImageDataConfig: images,
    ReviewDataConfig: reviews,
    SubwordDataConfig: subwords,
    TextDataConfig: text,
    WikiTextDataConfig: wikitext,
    SeriesDataConfig: series,
    HouseDataConfig: houses,
    LMSDataConfig: lms,
}


def family_of(task: Task) -> Family:
    return FAMILIES[type(task.data)]
