# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium for tests of the server's page."""
import os
import shutil

import pytest


def find(*names):
    return next((path for path in map(shutil.which, names) if path), None)


def open_browser():
    """A selenium driver; the test is skipped where there is no Chromium."""
    program = os.environ.get("CHROMIUM") or find("chromium", "chromium-browser", "google-chrome")
    driver = find("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with its driver is here: apt install chromium chromium-driver (Debian)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                 "--disable-background-networking", "--no-first-run", "--disable-extensions", "--mute-audio",
                 "--disable-component-update"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, Service(driver))
    opened.set_script_timeout(60)
    return opened


def screen(browser, width, height, dark):
    """The window's size in CSS pixels, and the colours that the system asks for."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
