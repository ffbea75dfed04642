"""Sources: the libraries that hold the models, behind one seam."""
