"""Progress and success models that are trained on episodes, by one trainer (`fit.fit`)."""
