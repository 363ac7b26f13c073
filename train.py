from grow.config import RunConfig, entry_point
@entry_point("train", RunConfig)
def main(run: RunConfig) -> None:
    print(run.directory, run)
if __name__ == "__main__":
    main()
