"""Addresses of pages. Those of WebSockets are in ``asgi.py``."""

from __future__ import annotations

from chat import views
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

urlpatterns = [
    path("", views.rooms, name="rooms"),
    path("rooms/<int:pk>/", views.room, name="room"),
    path("sign-up/", views.sign_up, name="sign-up"),
    path("login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
