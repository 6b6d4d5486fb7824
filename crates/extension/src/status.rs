//! The functions behind the statistics views.
