from encas.cli.numbers import spread


def test_several_numbers_after_one_option_each_get_their_own() -> None:
    args = ["bundle", "--batch", "1", "8", "32", "--json"]
    assert spread(args, "--batch") == ["bundle", "--batch", "1", "--batch", "8", "--batch", "32", "--json"]


def test_other_options_and_names_stay() -> None:
    for args in (["--rows", "1", "2"], ["--batch", "8", "image.png"], ["--batch=1", "8"], ["--batch"], []):
        assert spread(args, "--batch") == args


def test_the_option_may_come_again() -> None:
    assert spread(["--batch", "1", "--batch", "8"], "--batch") == ["--batch", "1", "--batch", "8"]
