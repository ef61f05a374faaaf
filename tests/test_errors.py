from isnet_jax.errors import UserError, printable, suggest


def test_suggests_the_nearest_name():
    known = ["vgg11", "resnet18", "densenet121"]
    assert suggest("resnet81", known, what="model") == (
        "unknown model 'resnet81'; did you mean 'resnet18'? Known: densenet121, resnet18, vgg11."
    )
    assert "did you mean 'resnet18'" in suggest("ResNet-18", known)


def test_suggests_nothing_when_nothing_is_near():
    assert suggest("qqq", ["b", "a"]) == "unknown name 'qqq'. Known: a, b."


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)


def test_messages_hold_nothing_that_a_terminal_acts_on():
    assert str(UserError("a\x1b[2Jb\r\nsecond line")) == "a\\x1b[2Jb\\r\nsecond line"
    assert printable("ä\n\udcff") == "ä\\n\\udcff"
    assert "Known: a\\nb" in suggest("x", ["a\nb"])
