"""Where the pages are."""

from __future__ import annotations

from django.urls import path
from pages import views

urlpatterns = [
    path("", views.hello),
    path("told", views.told),
    path("broken", views.broken),
    path("blocked", views.blocked),
]
